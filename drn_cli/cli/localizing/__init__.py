"""Heat maps, boxes and localization errors of `drn localize`."""
