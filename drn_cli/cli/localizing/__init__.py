"""What `drn localize` does: heat maps and boxes of images, and their scores."""
