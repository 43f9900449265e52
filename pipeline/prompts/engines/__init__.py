"""pipeline/prompts/engines"""
