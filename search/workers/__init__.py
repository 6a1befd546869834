"""Who works on a search, and on what of it: by what is in its storage, without a coordinator."""
