"""Maps of scenes by tuned models: classes or values, their files and legends."""
