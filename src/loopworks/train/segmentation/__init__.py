"""Recipes that learn of which class every pixel is."""
