"""Street scenes drawn by a procedure: pictures with labels that need no download."""
