"""How fast the page of a run is, in a browser."""
