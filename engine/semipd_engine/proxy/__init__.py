"""The local proxy before the engines of one pod: each request goes to the front end that has the fewest open ones.

A front end that cannot be reached or answers 503 is passed over as long as nothing has been sent to the client. `upstreams` holds
what is known of the front ends and chooses (pure); `forwarding` moves bytes; `readiness` asks.
"""
