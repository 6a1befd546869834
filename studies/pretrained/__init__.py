"""A real pretrained network and photographs that packages carry, read without any download."""
