"""How much sooner several workers are done than one."""
