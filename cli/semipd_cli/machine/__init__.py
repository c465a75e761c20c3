"""What this machine has to serve on: observed (`facts`), judged (`checks`), drawn (`lines`)."""
