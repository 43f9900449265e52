"""pipeline/prompts"""
