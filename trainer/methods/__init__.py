"""trainer/methods"""
