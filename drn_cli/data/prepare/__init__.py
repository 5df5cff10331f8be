"""From a data set as it is distributed to a data folder."""
