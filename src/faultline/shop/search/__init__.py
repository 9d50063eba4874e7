"""What is found by words: an index that follows from what the catalog and inventory say, and can be made anew."""
