"""What travels, the seams it travels through, and what can go wrong: no effects, no libraries of the edge."""
