"""What was sold, given back and paid, day by day: a star schema that follows from the events of the others."""
