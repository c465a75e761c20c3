"""What each command says, as values that JSON can carry. Pure: no client, no clock, no terminal."""
