"""What a user writes: one frozen configuration, a part in each file."""
