"""trainer/aape"""
