"""What you can do with GARE, as functions: ``gare.prepare``, ``train``, ``evaluate``, ``index``, ``search``, ...

The commands are options and printing over these functions. They raise GareError, end no process and install no signal
handler; notes, warnings and progress go to standard error (``gare.common.console``).
"""
