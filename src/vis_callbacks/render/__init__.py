"""Arrays -> pictures: host arrays go in, (height, width, 3) uint8 comes out.

Pictures are composed with NumPy and Pillow; of matplotlib only the colour tables and the font
are used. A Figure takes four to ten times as long (a scatter plot of 500 points, a heat map of
120 rows, measured side by side) and obeys the user's global ``rcParams``, none of our business.
"""
