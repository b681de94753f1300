"""The emulated rack: the far end of every wire, made of real firmware, real TPMs, a real switch and real BMC protocols.

Nothing but the command line imports it. What Steelyard does to a node in the rack goes over the wire, as in a data
centre: power and boot device by IPMI or Redfish, VLANs by OVSDB, images by DHCP and HTTP.
"""
