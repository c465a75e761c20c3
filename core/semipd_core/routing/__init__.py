"""Which pod gets a request? Pure: what is known of the pods and of the prompt goes in, a choice with its reason comes out."""
