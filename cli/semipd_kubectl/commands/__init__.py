"""One module per command: its options, and how it observes, reports and draws."""
