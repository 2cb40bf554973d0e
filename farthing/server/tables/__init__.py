"""Tables over what the lab finds, the same for pages, their twins, the API and commands."""
