"""What a run is: recipes, their fields and where they are found."""
