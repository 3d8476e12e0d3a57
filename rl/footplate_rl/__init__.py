"""Reinforcement learning on Footplate: environments -> rollout -> returns -> loss."""
