"""What there is to sell, who holds some of it and until when."""
