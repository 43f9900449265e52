"""trainer/protocols"""
