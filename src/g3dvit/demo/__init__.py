"""The demonstration: data whose answer is known, or a public data set, from start to end."""

from __future__ import annotations

from g3dvit.demo.development import demonstrate_development
from g3dvit.demo.hands import HandsReport, demonstrate_hands
from g3dvit.demo.place import demo_folder

__all__ = ["HandsReport", "demo_folder", "demonstrate_development", "demonstrate_hands"]
