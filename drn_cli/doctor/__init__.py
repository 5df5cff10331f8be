"""Whether this machine is fit for the work: checks that each come with a remedy."""
