"""The commands `semipd …`: wires the parts, decides nothing."""
