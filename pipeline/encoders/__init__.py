"""pipeline/encoders"""
