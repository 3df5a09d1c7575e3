"""Self-contained HTML and Markdown pages, made from records of tables, figures and cards. Nothing
here depends on runs or policies.
"""
