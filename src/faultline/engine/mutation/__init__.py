"""Automatic mutants: every small change of one Python file that is another valid program, each with a lasting name."""

from faultline.engine.mutation.variants import Variant, variants

__all__ = ["Variant", "variants"]
