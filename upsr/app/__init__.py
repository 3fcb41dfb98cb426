"""The page that ``upsr serve`` shows. Needs the extra: pip install 'upsr[app]'."""
