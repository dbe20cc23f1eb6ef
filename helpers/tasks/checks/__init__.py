"""What people ask before a training: is the data sound, which template fits, what will the model see?"""
