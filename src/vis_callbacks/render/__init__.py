"""Arrays -> pictures: host arrays go in, (height, width, 3) uint8 comes out.

Pictures are composed with NumPy and Pillow; of matplotlib only the colour tables and the font
are used. A Figure costs ten times as much (82 ms for a scatter of 500 points)
and obeys the user's global ``rcParams``, which are none of our business.
"""
