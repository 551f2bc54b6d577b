"""Put the super weights of a damaged release back, and tell a quantiser how to keep them."""
