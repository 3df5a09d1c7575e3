"""Reading rows of users: the conversation, and whether it is to be refused. Pure; files are read in
demur.base.
"""
