"""Plans searched for one runtime, and run in all of them."""
