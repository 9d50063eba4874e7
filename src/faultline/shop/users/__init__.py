"""Users: accounts, and everything that opens one."""
