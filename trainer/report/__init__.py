"""trainer/report"""
