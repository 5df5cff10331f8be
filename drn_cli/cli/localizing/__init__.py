"""What `drn localize` does: heat maps and boxes of pictures, and their scores."""
