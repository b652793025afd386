"""A finished model goes to the Hub and comes from it: what is sent, one commit, and the fetch of a whole folder."""
