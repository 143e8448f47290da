"""`headrace labels`: documents go to people who label them, and their labels come back."""
