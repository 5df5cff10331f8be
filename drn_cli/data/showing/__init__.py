"""Contact sheets of data folders: content and layout."""
