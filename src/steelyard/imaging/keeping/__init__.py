"""What imaging does by itself: operations, exports and network boot, until what is wanted is so."""
