"""What people's rows say: the conversation, and whether it is to be refused. Pure; files are read
in demur.base.
"""
