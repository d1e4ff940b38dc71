"""Recipes against Byzantine clients."""
