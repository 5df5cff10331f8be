"""What `drn predict` makes of pictures: maps of a segmenter, classes of a classifier."""
