"""What `drn predict` makes of images: maps of a segmenter, classes of a classifier."""
