"""How a report looks on a terminal. Pure: values in, lines out."""
