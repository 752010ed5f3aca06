"""The page of `explore`: `page` its parts and what they answer, `pictures` its HTML."""
